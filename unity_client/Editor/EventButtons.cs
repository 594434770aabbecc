using System.Collections.Generic;
using UnityEditor;
using UnityEngine;

namespace Everscene.Editor
{
    /// <summary>A button for each event of the scene, in groups, with controls for their params, and what became of the last ones.</summary>
    sealed class EventButtons
    {
        const int ReceiptsKept = 6;

        readonly Dictionary<string, object> chosen = new Dictionary<string, object>(); // "event/param" → value
        readonly List<Receipt> receipts = new List<Receipt>();
        string prompt = "";

        public void Draw(EversceneClient client)
        {
            if (client == null || client.State != ClientState.Connected) return;
            string group = null;
            foreach (SceneEvent known in client.Scene.Events)
            {
                if (known.Group != group) EditorGUILayout.LabelField(group = known.Group, EditorStyles.miniBoldLabel);
                DrawEvent(client, known);
            }
            DrawPrompt(client);
            foreach (Receipt receipt in receipts) EditorGUILayout.LabelField(receipt.ToString(), EditorStyles.miniLabel);
        }

        void DrawEvent(EversceneClient client, SceneEvent known)
        {
            if (GUILayout.Button(known.Label.Length > 0 ? known.Label : known.Name)) Keep(client.SendEvent(known.Name, ParamsOf(known)));
            EditorGUI.indentLevel++;
            foreach (SceneParam param in known.Params) DrawParam(known.Name + "/" + param.Name, param);
            EditorGUI.indentLevel--;
        }

        void DrawParam(string key, SceneParam param)
        {
            string label = param.Label.Length > 0 ? param.Label : param.Name;
            object present;
            if (!chosen.TryGetValue(key, out present)) present = DefaultOf(param);
            switch (param.Kind)
            {
                case ParamKind.Number:
                    chosen[key] = EditorGUILayout.Slider(label, (float)present, (float)param.Min, (float)param.Max);
                    break;
                case ParamKind.Flag:
                    chosen[key] = EditorGUILayout.Toggle(label, (bool)present);
                    break;
                case ParamKind.Choice:
                    var choices = new List<string>(param.Choices);
                    int index = EditorGUILayout.Popup(label, Mathf.Max(0, choices.IndexOf((string)present)), choices.ToArray());
                    chosen[key] = index < choices.Count ? choices[index] : param.DefaultText;
                    break;
                default:
                    chosen[key] = EditorGUILayout.TextField(label, (string)present);
                    break;
            }
        }

        void DrawPrompt(EversceneClient client)
        {
            EditorGUILayout.BeginHorizontal();
            prompt = EditorGUILayout.TextField(prompt);
            if (GUILayout.Button("Send prompt", GUILayout.Width(90)) && prompt.Trim().Length > 0) Keep(client.SendPrompt(prompt));
            EditorGUILayout.EndHorizontal();
        }

        EventParam[] ParamsOf(SceneEvent known)
        {
            var values = new EventParam[known.Params.Count];
            for (int i = 0; i < values.Length; i++)
            {
                SceneParam param = known.Params[i];
                object value;
                if (!chosen.TryGetValue(known.Name + "/" + param.Name, out value)) value = DefaultOf(param);
                if (param.Kind == ParamKind.Number) values[i] = new EventParam(param.Name, (float)value);
                else if (param.Kind == ParamKind.Flag) values[i] = new EventParam(param.Name, (bool)value);
                else values[i] = new EventParam(param.Name, (string)value);
            }
            return values;
        }

        static object DefaultOf(SceneParam param)
        {
            if (param.Kind == ParamKind.Number) return (float)param.DefaultNumber;
            if (param.Kind == ParamKind.Flag) return param.DefaultFlag;
            return param.DefaultText;
        }

        void Keep(Receipt receipt)
        {
            receipts.Insert(0, receipt);
            if (receipts.Count > ReceiptsKept) receipts.RemoveAt(ReceiptsKept);
        }
    }
}
