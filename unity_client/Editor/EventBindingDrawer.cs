using System.Collections.Generic;
using UnityEditor;
using UnityEngine;

namespace Everscene.Editor
{
    /// <summary>
    /// A binding in the inspector: only the fields that its trigger needs, and the scene's own event names to choose from
    /// while the stream is connected.
    /// </summary>
    [CustomPropertyDrawer(typeof(EventBinding))]
    sealed class EventBindingDrawer : PropertyDrawer
    {
        static readonly string[] Always = { "trigger", "eventName", "when", "parameters", "rest" };
        static readonly string[] Touch = { "otherTag" };
        static readonly string[] Animation = { "animator", "animatorLayer", "animatorState" };
        static readonly string[] Number = { "valueParam", "valueStep" };
        static readonly string[] Nothing = { };

        public override float GetPropertyHeight(SerializedProperty property, GUIContent label)
        {
            float height = EditorGUIUtility.singleLineHeight;
            if (!property.isExpanded) return height;
            foreach (string name in FieldsOf(property))
                height += EditorGUI.GetPropertyHeight(property.FindPropertyRelative(name), true) + EditorGUIUtility.standardVerticalSpacing;
            return height;
        }

        public override void OnGUI(Rect area, SerializedProperty property, GUIContent label)
        {
            SerializedProperty eventName = property.FindPropertyRelative("eventName");
            string title = eventName.stringValue.Length > 0 ? eventName.stringValue : label.text;
            var line = new Rect(area.x, area.y, area.width, EditorGUIUtility.singleLineHeight);
            property.isExpanded = EditorGUI.Foldout(line, property.isExpanded, title, true);
            if (!property.isExpanded) return;
            EditorGUI.indentLevel++;
            foreach (string name in FieldsOf(property))
            {
                SerializedProperty field = property.FindPropertyRelative(name);
                line.y += line.height + EditorGUIUtility.standardVerticalSpacing;
                line.height = EditorGUI.GetPropertyHeight(field, true);
                if (name == "eventName") DrawEventName(line, field);
                else EditorGUI.PropertyField(line, field, true);
            }
            EditorGUI.indentLevel--;
        }

        static IEnumerable<string> FieldsOf(SerializedProperty property)
        {
            foreach (string name in Always) yield return name;
            foreach (string name in FieldsOf((EventTrigger)property.FindPropertyRelative("trigger").enumValueIndex)) yield return name;
        }

        static string[] FieldsOf(EventTrigger trigger)
        {
            switch (trigger)
            {
                case EventTrigger.TriggerEnter:
                case EventTrigger.TriggerExit:
                case EventTrigger.CollisionEnter:
                    return Touch;
                case EventTrigger.AnimatorState: return Animation;
                case EventTrigger.Value: return Number;
                default: return Nothing;
            }
        }

        static void DrawEventName(Rect area, SerializedProperty field)
        {
            var events = field.serializedObject.targetObject as EversceneEvents;
            SceneDescription scene = events != null && events.Stream != null ? events.Stream.Scene : new SceneDescription();
            if (scene.Events.Count == 0)
            {
                EditorGUI.PropertyField(area, field, true);
                return;
            }
            var names = new List<string>();
            foreach (SceneEvent known in scene.Events) names.Add(known.Name);
            if (!names.Contains(field.stringValue)) names.Insert(0, field.stringValue);
            int index = EditorGUI.Popup(area, "Event Name", names.IndexOf(field.stringValue), names.ToArray());
            field.stringValue = names[index];
        }
    }
}
