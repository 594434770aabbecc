using System;
using System.Reflection;
using System.Threading;
using UnityEngine;

namespace Everscene.Play
{
    /// <summary>Calls what Unity would call: by name, by reflection, private or not.</summary>
    static class Player
    {
        const BindingFlags Any = BindingFlags.Instance | BindingFlags.NonPublic | BindingFlags.Public;

        public static void Call(object target, string name, params object[] arguments)
        {
            MethodInfo found = null;
            foreach (MethodInfo method in target.GetType().GetMethods(Any))
                if (method.Name == name && method.GetParameters().Length == arguments.Length) found = method;
            if (found == null) throw new MissingMethodException(target.GetType().Name, name);
            try
            {
                found.Invoke(target, arguments);
            }
            catch (TargetInvocationException wrapped)
            {
                System.Runtime.ExceptionServices.ExceptionDispatchInfo.Capture(wrapped.InnerException).Throw();
            }
        }

        public static void Set(object target, string field, object value) =>
            target.GetType().GetField(field, Any).SetValue(target, value);

        public static object Get(object target, string field) => target.GetType().GetField(field, Any).GetValue(target);

        /// <summary>A delegate on Update, so that the loop itself allocates nothing.</summary>
        public static Action UpdateOf(MonoBehaviour one) =>
            (Action)Delegate.CreateDelegate(typeof(Action), one, one.GetType().GetMethod("Update", Any));

        /// <summary>Frames of 5 ms until something holds; throws after ten seconds.</summary>
        public static void Until(Func<bool> holds, string what, params Action[] updates)
        {
            DateTime end = DateTime.UtcNow.AddSeconds(10);
            while (!holds())
            {
                if (DateTime.UtcNow > end) throw new TimeoutException("ten seconds without: " + what);
                foreach (Action update in updates) update();
                Time.unscaledTime += 0.005f;
                Thread.Sleep(5);
            }
        }

        public static void Frames(int count, params Action[] updates)
        {
            for (int i = 0; i < count; i++)
            {
                foreach (Action update in updates) update();
                Time.unscaledTime += 0.005f;
                Thread.Sleep(5);
            }
        }

        public static void Must(bool holds, string what)
        {
            if (!holds) throw new InvalidOperationException("does not hold: " + what);
        }
    }
}
